"""One HTML file that says which attention to use, and why; nothing in it comes from elsewhere."""
