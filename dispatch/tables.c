// RoPE's tables, by SLEEF's reproducible scalar functions, so that every machine has the same bits. Frequency and angle
// are rounded to float32 where the framework rounds them that most models were trained with.
#include <sleef.h>

#include "dispatch.h"

static float scaled(float frequency, const lod_rope_scaling *s) {
    const float wave = (float)(2 * 3.14159265358979323846) / frequency;
    if (wave > (float)(s->original_positions / s->low_freq_factor)) {
        return frequency / (float)s->factor;
    }
    if (wave < (float)(s->original_positions / s->high_freq_factor)) {
        return frequency;
    }
    const float share = ((float)s->original_positions / wave - (float)s->low_freq_factor) /
                        (float)(s->high_freq_factor - s->low_freq_factor);
    return (1.0f - share) * frequency / (float)s->factor + share * frequency;
}

void lod_rope_tables(size_t positions, size_t head_dim, double theta, const lod_rope_scaling *scaling, float *cosine,
                     float *sine) {
    LOD_DEFAULT_FP;
    const size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        float frequency = 1.0f / (float)Sleef_cinz_powd1_u10purec(theta, exponent);
        frequency = scaling ? scaled(frequency, scaling) : frequency;
        for (size_t position = 0; position < positions; position++) {
            float angle = (float)position * frequency;
            Sleef_double_2 sine_cosine = Sleef_cinz_sincosd1_u10purec(angle);
            sine[position * half + i] = (float)sine_cosine.x;
            cosine[position * half + i] = (float)sine_cosine.y;
        }
    }
}
