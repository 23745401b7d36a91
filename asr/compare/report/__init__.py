"""One HTML file that says what to use, and why; nothing in it comes from elsewhere."""
