"""Papers that learn under constraints."""
