"""Images from what was trained: the verb ``generate``, and the stock pipeline that it runs."""
