// The only C++ of the trainer. Every entry point catches what the library throws.
#include <sentencepiece_processor.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

extern "C" {
#include "file.h"
#include "sentence_pieces.h"
#include "tokenizer.h"
}

struct sentence_pieces {
    sentencepiece::SentencePieceProcessor processor;
    std::string file;
    std::vector<std::string> controls;
};

template <typename Work>
static bool guarded(const char *file, fault *f, Work work) {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        return fault_memory(f, file);
    } catch (const std::exception &error) {
        return fault_set(f, FAULT_INPUT, file, nullptr, "%s", error.what());
    }
}

static bool load_bytes(sentence_pieces **loaded, const mapped_file &map, const char *file, fault *f) {
    return guarded(file, f, [&] {
        std::unique_ptr<sentence_pieces> s(new sentence_pieces);
        s->file = file;
        absl::string_view bytes(reinterpret_cast<const char *>(map.data), map.size);
        sentencepiece::util::Status status = s->processor.LoadFromSerializedProto(bytes);
        if (!status.ok() || s->processor.GetPieceSize() <= 0) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "not a SentencePiece model");
        }
        for (int id = 0; id < s->processor.GetPieceSize(); id++) {
            if (s->processor.IsControl(id)) {
                s->controls.push_back(s->processor.IdToPiece(id));
            }
        }
        *loaded = s.release();
        return true;
    });
}

bool sentence_pieces_load(sentence_pieces **loaded, const char *path, fault *f) {
    mapped_file map;
    *loaded = nullptr;
    if (!file_map(&map, path, f)) {
        return false;
    }
    bool done = load_bytes(loaded, map, path, f);
    file_unmap(&map);
    return done;
}

void sentence_pieces_free(sentence_pieces *s) {
    delete s;
}

uint32_t sentence_pieces_count(const sentence_pieces *s) {
    return static_cast<uint32_t>(s->processor.GetPieceSize());
}

int32_t sentence_pieces_bos(const sentence_pieces *s) {
    return s->processor.bos_id();
}

int32_t sentence_pieces_eos(const sentence_pieces *s) {
    return s->processor.eos_id();
}

const char *sentence_pieces_control(const sentence_pieces *s, size_t i) {
    return i < s->controls.size() ? s->controls[i].c_str() : nullptr;
}

bool sentence_pieces_encode(const sentence_pieces *s, const char *text, size_t length, token_list *out, fault *f) {
    const char *file = s->file.c_str();
    return guarded(file, f, [&] {
        sentencepiece::ImmutableSentencePieceText pieces;
        auto status = s->processor.Encode(absl::string_view(text, length), pieces.mutable_proto());
        if (!status.ok()) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "cannot tokenise: %s", status.error_message());
        }
        size_t count = pieces.pieces_size();
        if (!token_list_reserve(out, count)) {
            return fault_memory(f, file);
        }
        // SentencePiece gives a character's bytes to the last of its byte tokens: backward, the others take that end.
        size_t end = 0;
        for (size_t i = count; i-- > 0;) {
            const auto piece = pieces.pieces(static_cast<int>(i));
            bool leading_byte = s->processor.IsByte(static_cast<int>(piece.id())) && piece.begin() == piece.end();
            end = leading_byte && i + 1 < count ? end : piece.end();
            out->ids[i] = piece.id();
            out->ends[i] = end;
        }
        out->count = count;
        return true;
    });
}

bool sentence_pieces_decode(const sentence_pieces *s, const uint32_t *ids, size_t count, char **text, size_t *length,
                            fault *f) {
    const char *file = s->file.c_str();
    return guarded(file, f, [&] {
        std::string decoded;
        auto status = s->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
        if (!status.ok()) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "cannot decode: %s", status.error_message());
        }
        *text = static_cast<char *>(malloc(decoded.size() + 1));
        if (!*text) {
            return fault_memory(f, file);
        }
        *length = decoded.size();
        memcpy(*text, decoded.c_str(), decoded.size() + 1);
        return true;
    });
}
