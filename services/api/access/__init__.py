"""Authentication: tokens, API keys and OIDC providers."""
