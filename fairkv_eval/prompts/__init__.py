"""From texts and messages to tokens: the context, its segments, what must survive."""
