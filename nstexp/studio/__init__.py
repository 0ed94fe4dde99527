"""`nstexp studio`: a local web page to paint with, which shows the command of every picture.

The server (`app`) holds no pictures and imports no torch; a second process (`worker`) computes. Files that people give
and pictures that are made lie in one folder for each browser (`sessions`), below the folder that the user names.
"""
