"""The fast lane: the endpoints that decide and record, from the connection to the answer."""
