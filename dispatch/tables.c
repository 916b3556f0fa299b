// RoPE's tables, by SLEEF's reproducible scalar functions, so that every machine has the same bits. Frequency and angle
// are rounded to float32 where the framework rounds them that most models were trained with.
#include <sleef.h>

#include "dispatch.h"

void lod_rope_tables(size_t positions, size_t head_dim, double theta, float *cosine, float *sine) {
    LOD_DEFAULT_FP;
    const size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        float frequency = 1.0f / (float)Sleef_cinz_powd1_u10purec(theta, exponent);
        for (size_t position = 0; position < positions; position++) {
            float angle = (float)position * frequency;
            Sleef_double_2 sine_cosine = Sleef_cinz_sincosd1_u10purec(angle);
            sine[position * half + i] = (float)sine_cosine.x;
            cosine[position * half + i] = (float)sine_cosine.y;
        }
    }
}
