"""What every service shares: errors, documents, tokens, routes, long-running operations."""
