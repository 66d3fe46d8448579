"""The one HTTP client: how a request is made, cut short, repeated and limited, and what its response means."""
