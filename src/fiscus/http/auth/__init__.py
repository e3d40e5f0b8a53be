"""Who calls: API keys and JSON Web Tokens."""
