"""What a picture or a table shows: queries on a store, one module an analysis.

Dashboard and report draw the same views, so that a number is defined in one place.
"""
