"""The steps of the database's schema, oldest first; Alembic finds them here by their file names.

Each file is one step and stays as it is once it was released: databases out there stand on it.
"""
