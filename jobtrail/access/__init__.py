"""Who may ask: tokens, API keys, and the settings of an OIDC provider."""
