"""One file per model family. Imported only when asked for."""
