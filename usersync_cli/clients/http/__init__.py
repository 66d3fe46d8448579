"""HTTP: how a request is made, cut short, repeated and limited, and what its response means.

`client` is what sources and targets use; `rate_limit` reads what a server says about waiting.
"""
