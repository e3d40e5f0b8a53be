"""What goes over the wire: JSON both ways, errors as answers, queries, header fields and paths."""
