"""Checkpoints on disk: what they hold, which belong together, and their matrices.

Listing opens headers only and never imports torch; no module here executes anything a file names.
"""
