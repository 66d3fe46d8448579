"""Steps of documents: streams read page by page; each page is a checkpoint."""
