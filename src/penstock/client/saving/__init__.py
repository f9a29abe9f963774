"""Saving in the background: snapshots in shared memory, encoded and sent by a second process.

saver              the queue, its policies, errors, the end
options            what a saver is asked for, checked, and what it reports
snapshots          what is copied when
barrier            no optimizer steps while a snapshot is being completed
torn               proof that nothing wrote to the state meanwhile
buffers            memory that both processes see
termination        a signal that lets what waits be saved
uploader           the process, as the saver sees it
uploader_process   what runs in it
messages           what the two tell one another
"""

from penstock.client.saving.options import SaverReport, WhenFull
from penstock.client.saving.saver import AsyncCheckpointSaver
from penstock.client.saving.torn import TornSnapshot

__all__ = ["AsyncCheckpointSaver", "SaverReport", "TornSnapshot", "WhenFull"]
