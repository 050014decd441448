"""For each rule that one process can check: a model with the fault as users met it, its repair, and a sound model."""

from tests.unit.doctor.cases.of_batches import a_batch_with_nan as a_batch_with_nan
from tests.unit.doctor.cases.of_batches import detection_with_two_images_per_gpu as detection_with_two_images_per_gpu
from tests.unit.doctor.cases.of_making import pretrained as pretrained
from tests.unit.doctor.cases.of_optimizers import all_parameters_decay as all_parameters_decay
from tests.unit.doctor.cases.of_optimizers import sgd as sgd
from tests.unit.doctor.cases.of_running import compiled_by_torch_compile as compiled_by_torch_compile
from tests.unit.doctor.cases.of_running import torch_checkpoint as torch_checkpoint
from tests.unit.doctor.cases.of_running import torch_checkpoint_reentrant as torch_checkpoint_reentrant
from tests.unit.doctor.cases.of_statistics import (
    swa_with_the_live_models_statistics as swa_with_the_live_models_statistics,
)
from tests.unit.doctor.cases.of_statistics import track_running_stats_is_off as track_running_stats_is_off
from tests.unit.doctor.cases.of_surgery import by_hand as by_hand
from tests.unit.doctor.cases.patients import FAULTY as FAULTY
from tests.unit.doctor.cases.patients import REPAIR as REPAIR
from tests.unit.doctor.cases.patients import SOUND as SOUND
from tests.unit.doctor.cases.patients import Patient as Patient
from tests.unit.doctor.cases.patients import images as images
from tests.unit.doctor.cases.patients import loader as loader
from tests.unit.doctor.cases.patients import reached as reached
from tests.unit.doctor.cases.patients import resnet as resnet
from tests.unit.doctor.cases.patients import train as train
