"""`paceline serve`, and the verbs that call a server."""
