"""From the words of a command to checked objects: everything that knows how configurations are written.

Words are completed and quoted (`bare_words`, `quoting`, `options`), Hydra composes them (`composing`), keys and values
are checked (`keys`, `early`, `trust`), what is wrong becomes one sentence (`refusals`), and objects are made (`build`).
Nothing here imports torch, so that a wrong command is answered at once.
"""
