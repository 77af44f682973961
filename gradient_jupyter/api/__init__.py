"""HTTP over ``control``: one module per noun, each a table of routes and the functions behind them.

A route declares the right it takes; the dispatcher (``endpoint``) refuses whatever does not. The OpenAPI
document is generated from the same tables.
"""
