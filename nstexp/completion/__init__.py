"""Completion of commands by the Tab key, in bash and zsh.

`nstexp -sc install=bash` prints a script for the shell (shells.py). On Tab the shell calls `nstexp -sc query=bash`,
which prints what the word under the cursor can become (candidates.py). Hydra has completion of its own behind the same
option, but it composes the whole configuration for an answer, and it changes how the shell parts words for all other
programs. Here nothing imports Hydra or torch, so that an answer takes about as long as Python's start.
"""
