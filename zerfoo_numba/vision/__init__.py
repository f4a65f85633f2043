"""Images as input: decoding, preprocessing, and the tower that turns patches into tokens."""
