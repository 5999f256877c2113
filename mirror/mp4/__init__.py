"""Tell whether a body is a whole mp4, a doubtful one, or an error page.

Decided by where the samples lie, not by how the boxes tile the file. Format: ISO/IEC
14496-12, and the QuickTime File Format it grew from.
"""

from mirror.mp4.error_page import HEAD_BYTES, is_error_page
from mirror.mp4.proof import END_NOT_PROVABLE, Proof, prove

__all__ = ["END_NOT_PROVABLE", "HEAD_BYTES", "Proof", "is_error_page", "prove"]
