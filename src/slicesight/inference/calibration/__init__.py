"""How much is an answer worth, and when is "I do not know" the better one?"""
