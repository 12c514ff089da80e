"""Training runs followed matrix by matrix: what there is, how it is read, what becomes rows.

`runs` finds them on disk, `units` plans the work, `weights`, `adapters`, `moments`, `records` and
`cumulative` bring every source of a matrix into one form, `rows` puts a unit together, `summaries`
speaks of whole runs.
"""
