"""Callbacks by Keras's names."""

from epochal.callbacks.backup import BackupAndRestore
from epochal.callbacks.batch_size_schedule import BatchSizeSchedule
from epochal.callbacks.callback import Callback
from epochal.callbacks.callback_list import CallbackList
from epochal.callbacks.csv_logger import CSVLogger
from epochal.callbacks.history import History
from epochal.callbacks.lambda_callback import LambdaCallback
from epochal.callbacks.learning_rates import LearningRateScheduler, ReduceLROnPlateau
from epochal.callbacks.model_checkpoint import ModelCheckpoint
from epochal.callbacks.noise_scale import NoiseScale
from epochal.callbacks.progbar_logger import ProgbarLogger
from epochal.callbacks.remote_monitor import RemoteMonitor
from epochal.callbacks.stopping import EarlyStopping, TerminateOnNaN
from epochal.callbacks.tensorboard import TensorBoard
from epochal.callbacks.weight_averages import SwapEMAWeights

__all__ = [
    "BackupAndRestore",
    "BatchSizeSchedule",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "NoiseScale",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]


def __dir__() -> list[str]:
    return list(__all__)
