"Splits and queries against brute force: blocks on the sphere, whole events, the strip, leaks pair by pair; grades word for word, qrels there and back."


