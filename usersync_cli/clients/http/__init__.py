"""HTTP: how a request is made, cut short, repeated and limited, and what its response means.

`client` is what sources and targets use; `transport` makes a request that can be cut short, `responses` says what comes back;
`bearer` is a token that is renewed when an API refuses it; `rate_limit` reads what a server says about waiting; `private` is where we
reach into requests and urllib3.
"""
