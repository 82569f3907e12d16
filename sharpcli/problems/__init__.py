"""Problems. A part is a function `(..., *, ...) -> Problem`.

Its positional parameters are what it needs of `seed`, `device`, `chunk`, `graph_budget`, `compile`, `data`,
`model`, `loss`; a toy takes no model or loss, and data only if it can do without. Keyword-only parameters are
its yaml.
"""
