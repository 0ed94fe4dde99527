"""Turn the words of a command into a checked configuration and into objects.

`bare_words`, `quoting` and `options` complete and quote the words, Hydra composes the configuration (`composing`),
`keys`, `early` and `trust` check keys and values, `refusals` writes error messages, and `build` creates the objects.
Nothing here imports torch, so that a wrong command fails at once.
"""
