"""How KV pairs are held: plain, or packed into fewer bits."""
