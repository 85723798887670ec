"""What every service shares: errors, documents, tokens, operations, certificates."""
