//! Schedules that were once possible on paper.
