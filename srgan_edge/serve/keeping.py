"""Room on the disk: results are deleted by age and total size, uploads refused when it is short."""

import os
import shutil
import threading
import time
from pathlib import Path

from srgan_edge.serve.log import Log
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import JobStore

EVERY_SECONDS = 60.0


class Keeper:
    """Deletes ended jobs at the start and once a minute, in a thread of its own."""

    def __init__(self, settings: Settings, store: JobStore, log: Log) -> None:
        self._settings, self._store, self._log = settings, store, log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def clean(self) -> list[str]:
        """Delete what is too old or too much now, oldest first; return the jobs deleted."""
        oldest = time.time() - self._settings.keep_days * 86_400
        sizes = {job.info.id: (job, folder_bytes(job.folder)) for job in self._store.ended_jobs()}
        total = folder_bytes(self._store.jobs_folder)
        deleted = []
        for job_id, (job, size) in sizes.items():
            if (job.info.ended or 0) < oldest or total > self._settings.keep_bytes:
                self._store.delete(job_id)
                total -= size
                deleted.append(job_id)
        if deleted:
            self._log.info("retention", deleted=len(deleted), bytes=total)
        return deleted

    def refuse_without_room(self, coming_bytes: int) -> None:
        """Refuse an upload that the disk has no room for.

        Raises:
            Problem: with it, less than `keep_free_bytes` would be free.
        """
        free = shutil.disk_usage(self._store.folder).free
        if free - coming_bytes < self._settings.keep_free_bytes:
            raise Problem(
                "disk-full",
                f"{free >> 20} MiB are free, of which {self._settings.keep_free_bytes >> 20} MiB "
                "stay free",
                "a smaller file, or another one after results were deleted",
                retry_after_seconds=300,
            )

    def _work(self) -> None:
        while True:
            try:
                self.clean()
            except Exception as error:
                self._log.failure("retention", error)
            if self._stopping.wait(EVERY_SECONDS):
                return


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; those that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - many files
            except OSError:
                continue
    return total
