"""The OpenAPI document, with its descriptions and examples."""
