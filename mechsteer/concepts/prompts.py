"""Neutral beginnings: requests and plain statements that a text in any voice can follow."""

from __future__ import annotations

NEUTRAL = (
    "Tell me about the garden.",
    "Tell me about Tom.",
    "What happened at the market?",
    "Describe the library.",
    "What did Rosa do?",
    "How was the day?",
    "Write about the clock.",
    "What is new?",
    "Write something.",
    "Tell me about the river.",
    "What happened at the station?",
    "Describe the harbour.",
    "Tom found a lamp at the bridge.",
    "Mia carried a basket to the kitchen. The basket was green.",
    "There was a letter near the tower, and Leo opened it.",
    "On Monday, Kate fixed a chair at the workshop.",
    "At the beach, Omar bought a hat.",
    "Ella walked to the village and sold a violin. It was 4 o'clock.",
    "Ben washed the bottle and left the school after lunch.",
    "At noon, Lily moved a table near the door.",
    "Hugo went to the forest and painted a white box.",
    "Nina brought a cake to the office. The office is near the river.",
    "Sam stored a rope at the field in the evening.",
    "Yesterday, Zoe made a drum at the school.",
)
