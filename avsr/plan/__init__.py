"""Planning: memory and time of a training or of `avsr prepare` on machines that are not here, from a written model.

    counting.py (operations of a step)  ->  devices.py (seconds of an operation), communication.py (of messages)
    ->  training.py (memory, step, hours, what limits), preparing.py  ->  run.py (several devices, what to change)
measure.py takes real steps on this machine and calibrates with them. experiments/scale compares plans with measurements.
"""

from avsr.plan.preparing import PreparePlan, workers_for
from avsr.plan.run import PlanSettings, plan_training
from avsr.plan.training import TrainingPlan

__all__ = ["PlanSettings", "PreparePlan", "TrainingPlan", "plan_training", "workers_for"]
