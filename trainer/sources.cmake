# The trainer: one library of everything but the mains, one program for each <name>_main.c.
file(GLOB TRAINER_SOURCES CONFIGURE_DEPENDS trainer/*.c trainer/*.cpp)
file(GLOB TRAINER_MAINS CONFIGURE_DEPENDS trainer/*_main.c)
list(REMOVE_ITEM TRAINER_SOURCES ${TRAINER_MAINS})

add_library(lod_trainer STATIC ${TRAINER_SOURCES})
target_include_directories(lod_trainer PUBLIC trainer)
target_link_libraries(lod_trainer PUBLIC lodrop_static PkgConfig::JANSSON PkgConfig::PCRE2
    PkgConfig::SENTENCEPIECE PRIVATE lod_flags)

foreach(main ${TRAINER_MAINS})
    get_filename_component(name ${main} NAME_WE)
    string(REPLACE "_main" "" name ${name})
    lod_program(lodrop-${name} ${main})
    target_link_libraries(lodrop-${name} PRIVATE lod_trainer)
    install(TARGETS lodrop-${name})
endforeach()
