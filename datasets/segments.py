"""When the frames of a video file are shown."""
import numpy as np

from datasets.labels import UNITS  # noqa: F401
from datasets.packets import open_video, timetable, video_stream


def frame_times(path, frames):
    """When each frame of a video file is shown, in seconds from the first -> float (frames,).

    From the packets' time stamps, since phones film at a varying rate; without these, evenly.
    """
    table = timetable(path)
    with open_video(path) as file:
        stream = video_stream(file)
        tick = stream.time_base
        rate = float(stream.average_rate or 25)
        if table:
            stamps = table.shown.tolist()
        else:
            packets = [packet for packet in file.demux(stream) if packet.size]
            stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    if len(stamps) != frames:
        return np.arange(frames) / rate
    return np.array([float((stamp - stamps[0]) * tick) for stamp in stamps])
