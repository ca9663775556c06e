"""Development tools: supervisor, embedded Redis and provider fakes of `gregor dev`. Services never import them."""
