"""Numbers for Prometheus, in a registry of their own."""

import shutil
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from srgan_edge import __version__
from srgan_edge.serve.images import ImageWorkers
from srgan_edge.serve.store import JobStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class Metrics:
    """Everything that `/metrics` shows."""

    def __init__(self, store: JobStore, images: ImageWorkers) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "srgan_edge_requests", "Requests.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "srgan_edge_request_seconds",
            "Time of a request; event streams are left out.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.under_way = Gauge(
            "srgan_edge_requests_under_way", "Requests under way.", registry=registry
        )
        self.uploaded = Counter(
            "srgan_edge_uploaded_bytes", "Bytes of accepted sources.", registry=registry
        )
        self.ended = Counter(
            "srgan_edge_jobs_ended",
            "Jobs that have ended in this process.",
            ("kind", "exit_code"),
            registry=registry,
        )
        self.job_seconds = Histogram(
            "srgan_edge_job_seconds",
            "Time from acceptance to the end of a job.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.frames = Counter(
            "srgan_edge_frames", "Frames of jobs that have ended.", ("kind",), registry=registry
        )
        registry.register(_Now(store, images))

    def page(self) -> bytes:
        return generate_latest(self._registry)


class _Now(Collector):
    """Numbers that are read from the database and the disk when they are asked for."""

    def __init__(self, store: JobStore, images: ImageWorkers) -> None:
        self._store, self._images = store, images

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("srgan_edge_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily(
            "srgan_edge_free_bytes",
            "Room on the disk of the data folder.",
            value=shutil.disk_usage(self._store.folder).free,
        )
        yield GaugeMetricFamily(
            "srgan_edge_images_waiting",
            "Requests of /v1/upscale that no thread has begun.",
            value=self._images.waiting,
        )
        calls, images = self._images.models.batches()
        yield CounterMetricFamily(
            "srgan_edge_shared_calls", "Calls of engines that share them.", value=calls
        )
        yield CounterMetricFamily(
            "srgan_edge_shared_images", "Images and tiles in those calls.", value=images
        )
        version = GaugeMetricFamily("srgan_edge_info", "Version.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version

    def describe(self) -> Iterable[Metric]:
        return []
