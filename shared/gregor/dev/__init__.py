"""What `gregor dev` needs: supervisor, embedded Redis, provider fakes. Services never import this package."""
