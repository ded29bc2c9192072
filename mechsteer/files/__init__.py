"""Files: they appear whole or not at all, know when they are damaged, and a folder has one writer.

`atomic` writes, `records` keeps JSON, `locks` keeps a second process out, `schema` turns JSON into typed values;
`tensors` (imported by its own name, since it needs torch) keeps tensors with a header.
"""

from mechsteer.files.atomic import PARTIAL, atomic_folder, atomic_path, remove, rename, write_atomically
from mechsteer.files.locks import folder_lock
from mechsteer.files.records import digest_of, read_record, write_record
from mechsteer.files.schema import structured

__all__ = [
    "PARTIAL",
    "atomic_folder",
    "atomic_path",
    "digest_of",
    "folder_lock",
    "read_record",
    "remove",
    "rename",
    "structured",
    "write_atomically",
    "write_record",
]
