"""What a visitor may ask of the machine."""

from __future__ import annotations

BYTES = 20_000_000
"""Of an uploaded file."""
UPLOAD = 350_000_000
"""Bytes of one request that uploads."""
UPLOADS = 2_000_000_000
"""Bytes of all uploads that are on disk at once."""
REQUEST = 1_000_000
"""Bytes of any other request."""
PIXELS = 25_000_000
"""Of a picture, which photographs of 24 megapixels have; decoding takes up to 30 bytes for each."""
SIDE = 16_384
"""Pixels of a picture's longer side."""
FRAMES = 100
"""Pictures in one file, of which the first is read."""
SCANS = 64
"""Times that a progressive JPEG is drawn over."""
PICTURES = 16
"""Pictures translated at once."""
SIZE = 512
"""Pixels of a side that is translated."""
STEPS = 1000
"""Steps, repeats, and other whole numbers among a method's options."""
SECONDS = 120.0
"""Of one piece of work, after which it is stopped."""
WAITING = 20
"""Requests in the queue; more are refused."""
SESSIONS = 50
"""Visitors whose last results are remembered."""
EXAMPLES = 24
"""Pictures shown of a folder."""
FRAMES_KEPT = 64
"""Steps of a translation that are kept to look at."""
FRAME_SIDE = 128
"""Pixels of a side, at most, at which they are kept."""
PICKS_KEPT = 400
"""Copies of picked pictures; they are small."""
JOBS_KEPT = 40
"""Results that stay on disk, to be downloaded, while the studio runs."""
