"""Steps of tables: extracts of SQL sources, compared and written in one transaction."""
