"""The survivors of one prompt under a policy: in a terminal, as HTML, as PNG."""
