"""The demo tree of `builders.medframeqa`."""

from builders import kit
from builders.demos.drawings import demo_picture
from builders.medframeqa import IMAGES

# Frames, system, question, options, answer.
_DEMO_ROWS: tuple[tuple[int, str, str, tuple[str, ...], str], ...] = (
    (2, "Respiratory", "What has changed from the first to the second frame?", ("Air", "Fluid", "Mass"), "B"),
    (3, "Digestive", "Which diagnosis do these CT slices support?", ("Ileus", "Colitis", "Volvulus", "Hernia"), "C"),
    (5, "Nervous", "Which sequence shows restricted diffusion?", ("T1", "T2", "FLAIR", "DWI", "SWI", "None"), "D"),
    (4, "Skeletal", "Which joint is unstable in all frames?", ("Hip", "Knee", "Ankle", "Wrist", "Elbow", "None"), "F"),
    (2, "Urinary", "What do both ultrasound frames show?", ("Stone", "Cyst", "Tumour", "Clot", "Reflux"), "A"),
)


def files() -> kit.Files:
    rows: kit.Rows = []
    for index, (frames, system, question, options, answer) in enumerate(_DEMO_ROWS, 1):
        images = {
            name: {"bytes": demo_picture(f"frames/{index}/{name}", "JPEG"), "path": f"{index}_{name}.jpg"}
            if number <= frames
            else None
            for number, name in enumerate(IMAGES, 1)
        }
        rows.append(
            {
                "question_id": f"Q{index:04d}",
                "system": system,
                "organ": system.lower(),
                "keyword": "follow-up",
                "modality": "CT",
                # Two questions are about one video; an id may begin with a dash.
                "video_id": "-demo_vid-0" if index < 3 else f"demoVideo{index:02d}",
                "question": question,
                "options": list(options),
                "correct_answer": answer,
                "reasoning_chain": f"Frame by frame, only {answer} fits.",
                "image_url": [f"frames/{index}_{number}.jpg" for number in range(1, frames + 1)],
                **images,
            }
        )
    return {"data/test-00000-of-00001.parquet": rows}
