"""What the tests share: waiting, and real servers."""
