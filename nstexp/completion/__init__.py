"""Completion of commands by the Tab key, in bash and zsh.

`nstexp -sc install=bash` prints a script for the shell (shells.py). On Tab the shell calls `nstexp -sc query=bash`,
which prints the possible completions of the word at the cursor (candidates.py). Hydra has its own completion behind
the same option, but it composes the whole configuration for each answer, and its script for bash changes how words are
split for all other programs, too. Nothing here imports Hydra or torch, so that an answer takes a fraction of a second.
"""
